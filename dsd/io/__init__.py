"""What is read and written: whole files, checked inputs, pictures, and the records that stages hand on."""
