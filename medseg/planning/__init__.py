"""Numbers about the data become numbers about the network; nothing here imports torch."""
