# The variables of `make up`. tools/reference.py writes them from tgi_stack/stack/planning/request.py.
TEXT ?= tgi
TEXT_MODEL ?= Qwen/Qwen3-0.6B
TEXT_QUANTIZATION ?= none
VISION ?= vllm
VISION_MODEL ?=
VISION_QUANTIZATION ?= none
VISION_IMAGE ?=
ADOPT ?=
ADOPT_KEY_FILE ?=
ADOPT_CA_FILE ?=
REPEATABLE ?= off
REPLICAS ?= 1
NUM_SHARD ?= 1
MAX_TOTAL_TOKENS ?= 8192
TEXT_PORT ?= 8080
VISION_PORT ?= 8081
GATEWAY_NAME ?=
GATEWAY_PORT ?=
GATEWAY_RATE ?=
GRAFANA_PORT ?=
TIER_PORT ?=
TIER_MEMORY ?=
SERVERS = --text "$(TEXT)" \
	--text-model "$(TEXT_MODEL)" \
	--text-quantization "$(TEXT_QUANTIZATION)" \
	--vision "$(VISION)" \
	--vision-model "$(VISION_MODEL)" \
	--vision-quantization "$(VISION_QUANTIZATION)" \
	--vision-image "$(VISION_IMAGE)" \
	--adopt "$(ADOPT)" \
	--adopt-key-file "$(ADOPT_KEY_FILE)" \
	--adopt-ca-file "$(ADOPT_CA_FILE)" \
	--repeatable "$(REPEATABLE)" \
	--replicas "$(REPLICAS)" \
	--num-shard "$(NUM_SHARD)" \
	--max-total-tokens "$(MAX_TOTAL_TOKENS)" \
	--text-port "$(TEXT_PORT)" \
	--vision-port "$(VISION_PORT)"
BESIDE = $(if $(GATEWAY_NAME),--gateway-name "$(GATEWAY_NAME)") \
	$(if $(GATEWAY_PORT),--gateway-port "$(GATEWAY_PORT)") \
	$(if $(GATEWAY_RATE),--gateway-rate "$(GATEWAY_RATE)") \
	$(if $(GRAFANA_PORT),--grafana-port "$(GRAFANA_PORT)") \
	$(if $(TIER_PORT),--tier-port "$(TIER_PORT)") \
	$(if $(TIER_MEMORY),--tier-memory "$(TIER_MEMORY)")
define say_variables
	@echo "  TEXT=$(TEXT)   tgi|vllm|sglang: Who serves text; vLLM and SGLang read any labels exactly, with their mass."
	@echo "  TEXT_MODEL=$(TEXT_MODEL)   What the text server holds."
	@echo "  TEXT_QUANTIZATION=$(TEXT_QUANTIZATION)   none|8bit|4bit|fp8: How it keeps weights; TGI can none and 8bit, the others none and fp8."
	@echo "  VISION=$(VISION)   tgi|vllm|sglang: Who serves images; TGI can't load Qwen3-VL, but Qwen2.5-VL."
	@echo "  VISION_MODEL=$(VISION_MODEL)   What the vision server holds. [Qwen/Qwen3-VL-2B-Instruct on vllm and sglang, Qwen/Qwen2.5-VL-3B-Instruct on tgi]"
	@echo "  VISION_QUANTIZATION=$(VISION_QUANTIZATION)   none|8bit|4bit|fp8: How it keeps weights; vLLM and SGLang can none and fp8."
	@echo "  VISION_IMAGE=$(VISION_IMAGE)   The container image of the vision server. [the engine's own release]"
	@echo "  ADOPT=$(ADOPT)   Servers that run already: put behind the front in place of ours, and never stopped. [none]"
	@echo "  ADOPT_KEY_FILE=$(ADOPT_KEY_FILE)   Holds the key that servers of ADOPT want; their relay gives it, nobody else sees it. [FASTQWEN_ADOPT_KEY, else none]"
	@echo "  ADOPT_CA_FILE=$(ADOPT_CA_FILE)   Certificates to trust where servers of ADOPT speak TLS. [the system's]"
	@echo "  REPEATABLE=$(REPEATABLE)   off|on: Whether SGLang's numbers are the same whatever else it computes, for some speed."
	@echo "  REPLICAS=$(REPLICAS)   Of each server, on GPUs of their own."
	@echo "  NUM_SHARD=$(NUM_SHARD)   1|2|4|8: GPUs that a server is spread over."
	@echo "  MAX_TOTAL_TOKENS=$(MAX_TOTAL_TOKENS)   Of a prompt and its answer together."
	@echo "  TEXT_PORT=$(TEXT_PORT)   Where the text server is published, of 127.0.0.1."
	@echo "  VISION_PORT=$(VISION_PORT)   Where the vision server is, of 127.0.0.1."
	@echo "  GATEWAY_NAME=$(GATEWAY_NAME)   What the gateway's certificate bears. [as before, else localhost]"
	@echo "  GATEWAY_PORT=$(GATEWAY_PORT)   Where the gateway is published, for other machines. [as before, else 8443]"
	@echo "  GATEWAY_RATE=$(GATEWAY_RATE)   N/s|N/min|N/h|off: What each key may ask of the gateway, such as 600/min or 20/s; more is answered with 429. [as before, else off]"
	@echo "  GRAFANA_PORT=$(GRAFANA_PORT)   Where Grafana is, of 127.0.0.1. [as before, else 3000]"
	@echo "  TIER_PORT=$(TIER_PORT)   Where the tier of the cache is, of 127.0.0.1. [as before, else 6379]"
	@echo "  TIER_MEMORY=$(TIER_MEMORY)   What the tier may hold, such as 4g or 512m; the least used goes first. [as before, else 1g]"
endef
