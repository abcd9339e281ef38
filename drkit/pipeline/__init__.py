"""The data paths: from a helper's tar stream to chunks and members, and back."""
