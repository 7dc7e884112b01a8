"""What models are fed: images and point clouds as they expect them, and kinds that are added."""
