{{- /* What the parts have in common. */ -}}
{{- define "netmon.selector" -}}
app.kubernetes.io/name: netmon
app.kubernetes.io/component: agent
{{- end }}

{{- define "netmon.labels" -}}
{{ include "netmon.selector" . }}
app.kubernetes.io/part-of: netmon
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "netmon.serviceAccount" -}}
{{ .Values.serviceAccount.name | default .Values.fullnameOverride }}
{{- end }}

{{- define "netmon.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Where the kubelet's probes ask; by itself it asks the node's address in the cluster. */ -}}
{{- define "netmon.probe" -}}
port: metrics
{{- if not (has .Values.metrics.address (list "" "podIP" "::" "0.0.0.0")) }}
host: {{ .Values.metrics.address | quote }}
{{- end }}
{{- end }}
