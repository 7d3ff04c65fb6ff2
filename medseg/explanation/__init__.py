"""Why a structure was found: what in the image, and in the network's features, its score depends on."""
