"""The S3 server that tests of sources use, too."""

from tests.sources.servers import bucket

__all__ = ["bucket"]
