{{/* The prefix of every name: the release's, with the chart's where the release does not say it. */}}
{{- define "llmtrain.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "llmtrain.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "llmtrain.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "llmtrain.selectorLabels" -}}
app.kubernetes.io/name: llmtrain
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "llmtrain.labels" -}}
{{ include "llmtrain.selectorLabels" . }}
app.kubernetes.io/part-of: llmtrain
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image of the form of .Values.image; takes (dict "image" … "version" …). */}}
{{- define "llmtrain.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .version .image.tag }}
{{- end -}}
{{- end -}}

{{/* What worker pods are known by: the operator labels them so. */}}
{{- define "llmtrain.workerSelector" -}}
matchExpressions:
  - key: llmtrain.dev/job
    operator: Exists
{{- end -}}

{{/* What the operator may do where jobs live. It never reads Secrets: pods mount them. */}}
{{- define "llmtrain.jobRules" -}}
- apiGroups: [llmtrain.dev]
  resources: [llmtrainingjobs]
  verbs: [get, list, watch]
- apiGroups: [llmtrain.dev]
  resources: [llmtrainingjobs/status]
  verbs: [get, patch, update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
