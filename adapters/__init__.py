"""Protocol clients, one folder each."""
