"""The report as one HTML file. Nothing is computed here."""
