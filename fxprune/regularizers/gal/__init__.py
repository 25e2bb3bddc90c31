"""GAL: soft masks on blocks, branches and channels, the student that carries them, and its discriminator."""
