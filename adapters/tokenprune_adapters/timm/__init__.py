"""Model families of the library timm."""
