"""Prints as JSON what the tests of the templates need: template.yaml as SAM translates it, stores.yaml,
samconfig.toml, and the create-only properties of the types in both, from cfn-lint's copy of CloudFormation's schemas.

Run in the folder of the project.
"""

import json
import tomllib
from pathlib import Path

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

template = yaml_parse(Path("template.yaml").read_text())
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        resource["Properties"]["CodeUri"] = "s3://bucket/key"
templates = {
    "template": Translator({}, Parser()).translate(template, {}),
    "stores": yaml_parse(Path("stores.yaml").read_text()),
}
types = {resource["Type"] for one in templates.values() for resource in one["Resources"].values()}
create_only = {
    name: PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", name).schema.get("createOnlyProperties", [])
    for name in sorted(types)
}
print(json.dumps(templates | {
    "environments": tomllib.loads(Path("samconfig.toml").read_text()),
    "create_only": create_only,
}))
