"""The pictures of a report, drawn once for the figures' files and for the page. Nothing is computed here."""
