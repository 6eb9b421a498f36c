"""Pure statistics: no files, no records, only numbers in and numbers out."""
