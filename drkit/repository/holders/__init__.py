"""Who opens which key, how that changes, and the proof that they still can."""
