"""What a model trained over patients may tell about one of them, bounded and accounted for."""
