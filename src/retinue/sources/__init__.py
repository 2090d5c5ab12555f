"""Where data comes from: tables and views, read, filtered, fingerprinted."""
