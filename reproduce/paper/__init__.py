"""The paper as data, our runs beside it, and how both are shown. Loads without torch; touches no model."""
