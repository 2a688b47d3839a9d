"""Rows of the application, put into the catalog."""
