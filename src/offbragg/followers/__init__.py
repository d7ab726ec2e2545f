"""What runs beside ``offbragg stack``: it follows the journal, in processes of its own."""
