"""What no criterion reads: second looks at a verdict, for those who ask further."""
