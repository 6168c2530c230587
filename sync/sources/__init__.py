"""One folder a vendor. Vendors never import each other."""
