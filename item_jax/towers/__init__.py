"""The towers: image and text encoders of one joint space. README.md is the map."""
