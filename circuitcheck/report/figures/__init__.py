"""The published figures, as SVG and PNG. Nothing is computed here, matplotlib is imported only to draw one."""
