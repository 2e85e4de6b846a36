"""Few-shot episodes as data: which pictures show a class, folds of classes, seeded lists of plain indices."""
