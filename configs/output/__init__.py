"""Lines that commands write beside a progress bar, and secrets that never appear in them."""
