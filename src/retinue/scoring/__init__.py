"""Batch scoring: tables through a release without a gateway, with the same answers as online."""
