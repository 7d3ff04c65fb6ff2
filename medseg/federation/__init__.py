"""What stays at each hospital: sites that answer, a coordinator that asks, and no image that leaves."""
