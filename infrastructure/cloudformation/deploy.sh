#!/usr/bin/env bash
# The serverless benchmark's stacks: deploys both, or deletes both. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stack=serverless-benchmark
model=
image=
function_folder=$here/../lambda
sure=
parameters=()

usage() {
  cat <<'TEXT'
deploy.sh deploy --model FILE.tar.gz --image URI [--stack NAME] [--yes] [-- PARAMETER=VALUE …]
deploy.sh delete [--stack NAME] [--yes]

deploy   creates or updates the stack NAME-artifacts (a bucket), uploads the archive and the zip of
         infrastructure/lambda into it, creates or updates the stack NAME (serverless-endpoint.yaml),
         waits, and prints its outputs. What is the same as before is left alone; a stack whose
         creation failed is deleted first.
delete   deletes the stack NAME, what is in the bucket, and the stack NAME-artifacts.

PARAMETERs are those of serverless-endpoint.yaml, such as MaxConcurrency=150. Account and region
are those of the AWS CLI; for the local service set what `mme up` prints. --yes does not ask.
TEXT
}

fail() {
  printf 'deploy.sh: %s\n' "$1" >&2
  exit 1
}

say() {
  printf '%s\n' "$1" >&2
}

formation() {
  aws cloudformation "$@"
}

# Print a stack's status, or nothing when there is no such stack.
status_of() {
  local said
  if said=$(formation describe-stacks --stack-name "$1" \
    --query 'Stacks[0].StackStatus' --output text 2>&1); then
    printf '%s\n' "${said##*$'\n'}" # what the CLI warns of comes first
  elif [[ $said != *"does not exist"* ]]; then
    # Credentials that have expired are no proof that there is nothing.
    fail "Nobody says what there is of $1: $said"
  fi
}

output_of() {
  formation describe-stacks --stack-name "$1" --output text \
    --query "Stacks[0].Outputs[?OutputKey=='$2'].OutputValue | [0]"
}

# Say why a stack did not come about, as CloudFormation has it.
reasons_of() {
  formation describe-stack-events --stack-name "$1" --output text --query \
    "StackEvents[?ends_with(ResourceStatus, '_FAILED')].[LogicalResourceId, ResourceStatusReason]" \
    >&2 || true
}

remove_stack() {
  say "$1: deleting"
  formation delete-stack --stack-name "$1"
  if ! formation wait stack-delete-complete --stack-name "$1"; then
    reasons_of "$1"
    fail "$1 was not deleted. Remove what the reasons above name and run this again."
  fi
}

# Bring a stack about: its name, its template, its parameters.
bring_about() {
  local name=$1 template=$2 status
  shift 2
  status=$(status_of "$name")
  case $status in
  ROLLBACK_COMPLETE | ROLLBACK_FAILED | CREATE_FAILED | REVIEW_IN_PROGRESS) remove_stack "$name" ;;
  esac
  say "$name: deploying"
  if ! formation deploy --stack-name "$name" --template-file "$here/$template" \
    --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset \
    --parameter-overrides "$@" >&2; then
    reasons_of "$name"
    fail "$name did not come about. Correct what the reasons above name and run this again."
  fi
}

hash_of() {
  python3 -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()[:16])' "$1"
}

# Upload a file under a key that has its hash in it, unless it is there.
upload() {
  local file=$1 bucket=$2 key=$3
  if aws s3api head-object --bucket "$bucket" --key "$key" >/dev/null 2>&1; then
    say "s3://$bucket/$key is there"
  else
    aws s3 cp --only-show-errors "$file" "s3://$bucket/$key"
    say "s3://$bucket/$key uploaded"
  fi
}

# The same sources make the same zip, byte for byte, so that an update changes what differs.
pack_function() {
  python3 - "$function_folder" "$1" <<'PYTHON'
import pathlib, sys, zipfile

folder, target = map(pathlib.Path, sys.argv[1:])
sources = sorted(path for path in folder.glob("*.py"))
if not sources:
    sys.exit(f"deploy.sh: there is no function in {folder}")
with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
    for path in sources:
        entry = zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
PYTHON
}

confirm() {
  if [[ -n $sure || -n ${AWS_ENDPOINT_URL:-} ]]; then
    return
  fi
  local account answer
  account=$(aws sts get-caller-identity --query Account --output text) ||
    fail "AWS does not know you. Log in (aws configure, aws sso login) and run this again."
  read -r -p "$1 in the account $account? [y/N] " answer || answer=
  [[ $answer == [yY]* ]] || fail "Nothing was done."
}

deploy() {
  [[ -n $model ]] || fail "--model is missing: the archive of the model. See --help."
  [[ -f $model ]] || fail "There is no archive $model. Build one, with make demo or mme pack."
  [[ -n $image ]] || fail "--image is missing: the container's image in Amazon ECR. See --help."
  confirm "Create what may cost money"

  local bucket code code_key model_key
  bring_about "$stack-artifacts" artifact-bucket.yaml BucketName=
  bucket=$(output_of "$stack-artifacts" BucketName)

  code=$(mktemp)
  # shellcheck disable=SC2064  # the name of now
  trap "rm -f '$code'" EXIT
  pack_function "$code"
  code_key=functions/$(hash_of "$code").zip
  model_key=models/$(hash_of "$model")/model.tar.gz
  upload "$code" "$bucket" "$code_key"
  upload "$model" "$bucket" "$model_key"

  bring_about "$stack" serverless-endpoint.yaml "ArtifactBucket=$bucket" "ModelKey=$model_key" \
    "CodeKey=$code_key" "ImageUri=$image" "${parameters[@]+"${parameters[@]}"}"
  formation describe-stacks --stack-name "$stack" --output text \
    --query 'Stacks[0].Outputs[].[OutputKey, OutputValue]'
}

delete() {
  confirm "Delete the stacks $stack and $stack-artifacts with all that is in the bucket"
  local bucket status
  status=$(status_of "$stack")
  if [[ -n $status ]]; then
    remove_stack "$stack"
  fi
  status=$(status_of "$stack-artifacts")
  if [[ -n $status ]]; then
    bucket=$(output_of "$stack-artifacts" BucketName)
    if [[ $bucket != None ]]; then
      aws s3 rm --only-show-errors --recursive "s3://$bucket"
    fi
    remove_stack "$stack-artifacts"
  fi
  say "Nothing of $stack is left."
}

what=${1:-}
[[ $# -eq 0 ]] || shift
while [[ $# -gt 0 ]]; do
  case $1 in
  --model) model=${2:?--model wants a file} && shift 2 ;;
  --image) image=${2:?--image wants a URI} && shift 2 ;;
  --stack) stack=${2:?--stack wants a name} && shift 2 ;;
  --yes) sure=yes && shift ;;
  --) shift && parameters=("$@") && break ;;
  -h | --help) usage && exit ;;
  *) fail "What is $1? See --help." ;;
  esac
done
command -v aws >/dev/null || fail "There is no AWS CLI: https://aws.amazon.com/cli/"
export AWS_PAGER=
case $what in
deploy) deploy ;;
delete) delete ;;
-h | --help) usage ;;
*) usage >&2 && exit 2 ;;
esac
