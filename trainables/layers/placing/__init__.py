"""Lines of settings to place operating points on, from what a network said of the validation videos."""
