"""What the user owns: Cases, Datasets, their labels, their folds, and phantoms to try things on."""
