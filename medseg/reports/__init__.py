"""Pages that tell a person what was measured: one HTML file each, which needs nothing but itself."""
