"""Where a repository is and what opens it: from a policy, the environment, or the command line."""
