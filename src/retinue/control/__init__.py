"""The slow loop: carries plans out."""
