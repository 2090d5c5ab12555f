"""Runs a portfolio of machine-learning models as one system."""
