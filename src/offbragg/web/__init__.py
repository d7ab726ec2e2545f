"""The page at ``/live`` of the catalog: HTML, CSS and ES modules, served as they are."""
