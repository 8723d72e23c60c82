"""MLflow: what is sent there, and how."""
