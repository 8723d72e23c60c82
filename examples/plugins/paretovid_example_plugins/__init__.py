"""A method, a family of backbones and a reader for paretovid. Importing this package imports none of them."""
