"""Build of dss_jax.

`tasks/` and `gin/` lie at the top of the repository, where a reader looks for
them, and are installed inside the package as `dss_jax.tasks` and
`dss_jax/gin`: an installation adds only `dss_jax` to site-packages.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(
  r'^__version__ = "([^"]+)"',
  (ROOT / "dss_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)


def subpackages(folder: str, package: str) -> dict[str, str]:
  """Maps `package` and the packages below it to their folders."""
  found = {package: folder}
  for name in setuptools.find_packages(str(ROOT / folder)):
    found[f"{package}.{name}"] = f"{folder}/{name.replace('.', '/')}"
  return found


TASKS = subpackages("tasks", "dss_jax.tasks")

INSTALL_REQUIRES = [
  "absl-py>=2.3",
  "clu>=0.0.12",
  "etils>=1.13",
  "flax>=0.12.8,<0.13",
  "gin-config>=0.5,<0.6",
  # tensorflow-datasets imports it without declaring it.
  "importlib_resources>=6",
  # On Python 3.11 the newest is 0.10.2; from 3.12 on it is newer.
  "jax>=0.10.2,<0.13",
  "msgpack>=1.1",
  "numpy>=2.2,<2.6",
  "optax>=0.2.8,<0.3",
  "orbax-checkpoint>=0.12.8,<0.13",
  "pyarrow>=21,<27",
  "rich>=14",
  "rouge-score>=0.1.2",
  "sacrebleu>=2.4",
  "safetensors>=0.6",
  # 0.2.3 needs protobuf >= 7.36.1 without saying so, and Apache Beam holds
  # protobuf below 7: `import seqio` would then fail.
  "sentencepiece>=0.2.0,<0.2.3",
  # Brings TensorFlow through tensorflow-text; naming tensorflow-cpu here
  # would install a second one.
  "seqio>=0.0.20,<0.1",
  # Completion for shells.
  "shtab>=1.7",
  "tensorboard>=2.20,<3",
  "tensorflow-datasets>=4.9.10,<5",
  "tensorstore>=0.1.84",
]

HF = [
  "datasets>=4",
  "huggingface_hub>=1,<3",
  "transformers>=5.17,<6",
]
REPORT = ["matplotlib>=3.9", "plotext>=5.3,<6"]
SERVE = [
  "fastapi>=0.115",
  "httptools>=0.6",
  "prometheus-client>=0.20",
  # Connections are bounded from within its protocols.
  "uvicorn>=0.34,<1",
]
# PyTorch, which both conversions go through, is named by none of them; on a
# machine without a GPU its CPU build spares some GB.
EXPORT = [
  "ctranslate2>=4.6,<5",
  "onnx>=1.18",
  "onnxruntime>=1.22",
  "onnxscript>=0.5",
  "torch>=2.6",
  "transformers>=5.17,<6",
]
TEACHER = ["openai>=3,<4", "reasoning-gym>=0.1.25,<0.2"]

EXTRAS_REQUIRE = {
  "tpu": ["jax[tpu]>=0.10.2,<0.13"],
  "cuda12": ["jax[cuda12]>=0.10.2,<0.13"],
  "cuda13": ["jax[cuda13]>=0.10.2,<0.13"],
  "teacher": TEACHER,
  "hf": HF,
  "serve": SERVE,
  "export": EXPORT,
  "report": REPORT,
  # Wants its own environment: Beam holds protobuf and pyarrow back.
  "beam": ["apache-beam>=2.77", "google-crc32c>=1.6"],
  "dev": [
    *REPORT,
    *SERVE,
    *TEACHER,
    "build>=1.2",
    "hypothesis>=6.100",
    "pyright==1.1.414",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff==0.17.6",
  ],
}

setuptools.setup(
  name="dss_jax",
  version=VERSION,
  description="Distilling step-by-step in JAX: small T5 students from LLM"
  " rationales",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE", "NOTICE"],
  python_requires=">=3.11,<3.14",
  packages=[
    *setuptools.find_packages(
      include=["dss_jax", "dss_jax.*"],
      exclude=[
        "dss_jax.tasks",
        "dss_jax.tasks.*",
        "dss_jax.gin",
        "dss_jax.gin.*",
      ],
    ),
    *TASKS,
    "dss_jax.gin",
  ],
  package_dir={**TASKS, "dss_jax.gin": "gin"},
  package_data={
    "dss_jax": [
      "datasets/*.model",
      "rationales/*.toml",
      "rationales/quality/page/*",
      "students/serving/page/*",
    ],
    "dss_jax.gin": ["**/*.gin"],
    "dss_jax.tasks": ["**/*.toml"],
  },
  include_package_data=False,
  zip_safe=False,
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS_REQUIRE,
  entry_points={"console_scripts": ["dss-jax = dss_jax.main:run"]},
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
