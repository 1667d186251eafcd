"""Domain weights as algorithms, DoReMi and DoGE: learned while a small proxy trains through the one loop."""
