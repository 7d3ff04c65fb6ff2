"""Two label arrays become numbers, and numbers become tables and pictures."""
