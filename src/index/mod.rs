//! Published views of pods, unique-prefix lookup and list filters.
