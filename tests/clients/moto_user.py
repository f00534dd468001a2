"""Makes a user with an access key, who may use STS and one bucket, on the moto server at sys.argv[1], which takes four
calls without a signature. Prints the key as `aws configure export-credentials` does."""

import json
import sys

import boto3

anyone = {
    "endpoint_url": sys.argv[1],
    "region_name": "eu-west-1",
    "aws_access_key_id": "anyone",
    "aws_secret_access_key": "anyone",
}
iam = boto3.client("iam", **anyone)
boto3.client("s3", **anyone).create_bucket(
    Bucket="agents", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
)
iam.create_user(UserName="researcher")
statement = {"Effect": "Allow", "Action": ["sts:*", "s3:*"], "Resource": "*"}
policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
iam.put_user_policy(UserName="researcher", PolicyName="p", PolicyDocument=policy)
key = iam.create_access_key(UserName="researcher")["AccessKey"]
print(json.dumps({"Version": 1, "AccessKeyId": key["AccessKeyId"], "SecretAccessKey": key["SecretAccessKey"]}))
