"""Questions with answers: where they come from, how sources are mixed, and how a question becomes a prompt."""
