"""Running a patch: by replaying what follows it, or by full passes."""
