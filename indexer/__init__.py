"""From images to an index. Stays light: torch and timm are imported where a model really runs."""
