"""Hand on a student or its pairs: dsd-export and dsd-publish."""
