"""What users of s3fs and smart_open write; nothing in it says where S3 is."""

import json
import os
import sys

import s3fs
import smart_open

content = os.urandom(11 * 1024 * 1024)  # three parts of s3fs's 5 MiB, and ranges across them
found = {}

files = s3fs.S3FileSystem()
files.mkdir("with-s3fs")
with files.open("with-s3fs/folder/large.bin", "wb", block_size=5 * 1024 * 1024) as written:
    written.write(content)
files.pipe("with-s3fs/folder/small.txt", b"small")
found["listed"] = sorted(files.find("with-s3fs"))
found["size"] = files.info("with-s3fs/folder/large.bin")["size"]
with files.open("with-s3fs/folder/large.bin", "rb") as read:
    read.seek(6_000_000)
    found["range"] = read.read(1000) == content[6_000_000:6_001_000]
found["whole"] = files.cat("with-s3fs/folder/large.bin") == content
files.cp("with-s3fs/folder/small.txt", "with-s3fs/copy.txt")
found["copy"] = files.cat("with-s3fs/copy.txt").decode()
files.rm("with-s3fs", recursive=True)
found["left"] = files.exists("with-s3fs/copy.txt")

files.mkdir("with-smart-open")
with smart_open.open("s3://with-smart-open/lines.txt.gz", "w") as written:
    written.writelines(f"line {number}\n" for number in range(1000))
with smart_open.open("s3://with-smart-open/lines.txt.gz") as read:
    found["lines"] = sum(1 for _ in read)
with smart_open.open("s3://with-smart-open/large.bin", "wb") as written:
    written.write(content)
with smart_open.open("s3://with-smart-open/large.bin", "rb") as read:
    read.seek(-10, 2)
    found["tail"] = read.read() == content[-10:]
found["archive"] = len(
    smart_open.open("s3://models/times1.tar.gz", "rb", compression="disable").read()
)
json.dump(found, sys.stdout)
