"""Sources: random access to samples as they lie on disk, undecoded. One module a format, its helpers named after it.

=============== ==================================================================================
folder          a tree of image files, with or without class folders
classes         images with labels from class folders, lists and archives
tar             tar files, through an index of their members that is built once
shards          samples in tar shards (webdataset, img2dataset)
arrayrecord     ArrayRecord files of ``spendflops data prepare``, whose records are those of ``records``
parquet         tables with the image in a column
coco            images beside a JSON file of annotations in COCO's layout
masks           label maps whose values are changed when they are decoded
imagenet        what the data sets with ImageNet's classes share
stored          where an index is kept that was made of a file
published       what the data sets with published counts share
=============== ==================================================================================
"""
