"""From recordings to predictions."""
