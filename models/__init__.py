"""Neural networks only: the suspect classifier, the trigger generator, the perceptual distance. They know nobody."""
