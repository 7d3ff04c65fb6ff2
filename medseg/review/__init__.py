"""What the clinicians' viewer shows, as arrays and documents, and what reviewers say about it; no page knows more."""
