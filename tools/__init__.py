"""Small programs for contributors: pages that are written from the code, checks that hooks run."""
