"""What Atelier's processes share."""
