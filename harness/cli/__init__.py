"""What several commands share: exit codes and options."""
